"""The embedded toy corpus: short H.264 videos of coloured shapes that move, with captions, questions and
multiple choice.

It is written as an ordinary folder dataset (videos/ + {train,val,test}.jsonl), so that everything downstream
treats it like a user's own data. In order of use: `scenes` decides what is shown and which split it belongs
to, `facts` says what a caption claims and which scenes it fits, `captions` and `questions` put a scene into
words, `paths` moves the objects, `render` draws the pixels, `encode` compresses them and `corpus` writes the
folder. Nothing here imports JAX.
"""

from snp_jax.data.toy.corpus import write_corpus
from snp_jax.data.toy.render import render_scene
from snp_jax.data.toy.scenes import Scene, Thing, sample_scenes

__all__ = ["Scene", "Thing", "render_scene", "sample_scenes", "write_corpus"]
