"""Multiple choice on MSRVTT: the retrieval model scores five captions of a video. Nothing is trained.

    python tools/eval.py --config configs/choice/msrvtt.py --checkpoint runs/retrieval_msrvtt

Paper: accuracy VST 96.5, PVT 92.3 (Table I).
"""

from configs import published


def get_config(arg=None):
    config = published.fine_tuning("choice", arg)
    config.dataset.path = "data/msrvtt_mc"
    config.train.init_from = "runs/retrieval_msrvtt"
    config.train.steps = 0
    config.optim.milestones = ()
    return published.finish(config, arg)
