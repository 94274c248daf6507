"""Training a tokeniser from captions. The tokenisers themselves are in `text`.

Both trainers give the same bytes for the same texts in the same order, whatever the machine.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable

import sentencepiece
import tokenizers

from snp_jax.data.text import CLS, MASK, PAD, SEP, SPECIAL_PIECES, UNK
from snp_jax.errors import UserError

# Sampled for training when a corpus has more lines; enough for any vocabulary of a caption corpus.
MAX_SENTENCES = 2_000_000


def train_sentencepiece(texts: Iterable[str], vocab_size: int) -> bytes:
    """A byte-pair SentencePiece model with lower-casing NFKC normalisation.

    Byte pairs and not the unigram model: unigram takes its candidates from repeated strings of any length, so
    a word that is always followed by the same word ("circle moves", common in small corpora) never becomes a
    piece, and a whole vocabulary entry is what makes a word significant.

    Ids 0..4 are [PAD], [UNK], [CLS], [SEP], [MASK]; all but [UNK] are control symbols, which text never
    produces.

    Args:
      texts: the corpus, one text each.
      vocab_size: at most so many pieces; fewer if the corpus is too small for them.

    Returns: the serialised model, to be written to a `.model` file.

    Raises:
      UserError: no text, or a vocabulary too small for the corpus's characters.
    """
    texts = _cleaned(texts)
    model = io.BytesIO()
    sentencepiece.set_random_generator_seed(0)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            normalization_rule_name="nmt_nfkc_cf",
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            pad_piece=PAD,
            unk_piece=UNK,
            bos_piece=CLS,
            eos_piece=SEP,
            control_symbols=[MASK],
            input_sentence_size=MAX_SENTENCES,
            shuffle_input_sentence=True,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _too_small(vocab_size, str(error)) from error
    return model.getvalue()


def train_wordpiece(texts: Iterable[str], vocab_size: int) -> bytes:
    """A BERT uncased WordPiece vocabulary: the five special pieces, the characters, then merges.

    Args:
      texts: the corpus, one text each.
      vocab_size: at most so many pieces; fewer if the corpus is too small for them.

    Returns: the vocabulary file, one piece a line, to be written to a `.txt` file.

    Raises:
      UserError: no text, or a vocabulary too small for the corpus's characters.
    """
    texts = _cleaned(texts)
    normalise = tokenizers.normalizers.BertNormalizer(lowercase=True).normalize_str
    split = tokenizers.pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    counts = Counter(word for text in texts for word, _ in split(normalise(text)))
    # Given as special tokens, the characters get their ids here; left to the trainer, ids (and so ties
    # between merges) would follow a hash map's order, which differs from run to run.
    characters = sorted({c for word in counts for c in word})
    inner = sorted({f"##{c}" for word in counts for c in word[1:]})
    base = [*SPECIAL_PIECES, *characters, *inner]
    if vocab_size < len(base):
        raise _too_small(vocab_size, f"its characters alone need {len(base)}")
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=base, show_progress=False
    )
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token=UNK))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    words = (word for word, count in sorted(counts.items()) for _ in range(count))
    backend.train_from_iterator(words, trainer)
    vocabulary = backend.get_vocab(with_added_tokens=False)
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    return "".join(f"{piece}\n" for piece in pieces).encode()


def _cleaned(texts: Iterable[str]) -> list[str]:
    # SentencePiece takes one sentence a line and refuses NUL, which it uses itself.
    cleaned = [re.sub(r"[\s\0]+", " ", text).strip() for text in texts]
    cleaned = [text for text in cleaned if text]
    if not cleaned:
        raise UserError("there is no text to train a tokeniser from; give files with at least one caption")
    return cleaned


def _too_small(vocab_size: int, reason: str) -> UserError:
    return UserError(
        f"--vocab-size {vocab_size} is too small for this corpus ({' '.join(reason.split())}); choose a larger one"
    )
