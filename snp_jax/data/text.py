"""Tokenisers: one interface, two implementations (BERT WordPiece and SentencePiece).

`load_tokenizer` picks the implementation by the file's suffix. Training a tokeniser lives in `text_training`;
significant words live in `words`. Objects here pickle by content (vocabulary or model bytes), so spawned
workers need no file.
"""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import sentencepiece
import tokenizers

from snp_jax.errors import UserError

PAD, UNK, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL_PIECES = (PAD, UNK, CLS, SEP, MASK)
_WORD_START = "\u2581"  # how SentencePiece writes the space in front of a word
_CONTINUATION = "##"  # how WordPiece marks a piece that continues a word


class Tokenizer(ABC):
    """Text to ids and back. `pieces[i]` is the text of id `i`; special pieces have attributes of their own.

    Attributes: kind ("wordpiece" or "sentencepiece"), pieces (list of V strings), vocab_size (V), pad_id,
    unk_id, cls_id, sep_id, mask_id, special_ids (frozenset of these five and any reserved piece that text
    never produces).
    """

    kind: str

    def __init__(self, pieces: Sequence[str], source: str):
        self.pieces = list(pieces)
        self.vocab_size = len(self.pieces)
        ids = {piece: i for i, piece in enumerate(self.pieces)}
        missing = [piece for piece in SPECIAL_PIECES if piece not in ids]
        if missing:
            raise UserError(
                f"{source}: the vocabulary has no {', '.join(missing)}; use a BERT vocab.txt, or a model "
                "trained with tools/train_tokenizer.py"
            )
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (ids[piece] for piece in SPECIAL_PIECES)
        self.special_ids = frozenset(ids[piece] for piece in SPECIAL_PIECES) | self._reserved_ids()

    def encode(self, text: str, max_len: int, rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
        """`[CLS] tokens [SEP]`, padded to `max_len`.

        A text of more than `max_len - 2` tokens keeps a window of that length: a random one drawn once with
        `rng`, the first one when `rng` is None (method.md section 7, item 2).

        Returns: ids int32 [max_len], mask bool [max_len] (True = real, [CLS] and [SEP] included).
        """
        room = max_len - 2
        if room < 1:
            raise ValueError(f"max_len must be at least 3 ([CLS], a token, [SEP]), got {max_len}")
        tokens = self.token_ids(text)
        if len(tokens) > room:
            start = int(rng.integers(len(tokens) - room + 1)) if rng is not None else 0
            tokens = tokens[start : start + room]
        ids = np.full(max_len, self.pad_id, np.int32)
        ids[: len(tokens) + 2] = [self.cls_id, *tokens, self.sep_id]
        return ids, np.arange(max_len) < len(tokens) + 2

    def word_id(self, word: str) -> int | None:
        """The id of `word` if, as this tokeniser normalises it, it is a whole vocabulary entry; else None."""
        return self._ids_of_words.get(self._normalise_word(word))

    @cached_property
    def _ids_of_words(self) -> dict[str, int]:
        words = ((self.whole_word(i), i) for i in range(self.vocab_size))
        return {word: i for word, i in words if word is not None}

    def __getstate__(self) -> dict:
        # The back ends are rebuilt on first use: one cannot be pickled, the other would carry a second
        # vocabulary.
        return {key: value for key, value in self.__dict__.items() if key not in ("_backend", "_ids_of_words")}

    @abstractmethod
    def token_ids(self, text: str) -> list[int]:
        """The ids of the text's tokens: no special tokens around them, no limit on their number."""

    @abstractmethod
    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The normalised text of `ids`, special tokens left out except [UNK] and [MASK]."""

    @abstractmethod
    def whole_word(self, token_id: int) -> str | None:
        """The lower-case word if this piece is a whole word ("dog", not "##dog", not ","), else None."""

    @abstractmethod
    def _normalise_word(self, word: str) -> str: ...

    def _reserved_ids(self) -> frozenset[int]:
        return frozenset()


class WordPieceTokenizer(Tokenizer):
    """BERT uncased WordPiece: clean, lower-case, strip accents, split at punctuation, longest match first."""

    kind = "wordpiece"

    def __init__(self, pieces: Sequence[str], source: str = "vocabulary"):
        super().__init__(pieces, source)

    @cached_property
    def _backend(self) -> tokenizers.Tokenizer:
        # Copies of BERT's vocabulary list some pieces twice; the later id wins, as in BERT's own reader.
        vocabulary = {piece: i for i, piece in enumerate(self.pieces)}
        backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token=UNK))
        backend.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        return backend

    def token_ids(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        silent = (self.pad_id, self.cls_id, self.sep_id)
        pieces = (self.pieces[int(i)] for i in ids if int(i) not in silent)
        return " ".join(pieces).replace(f" {_CONTINUATION}", "")

    def whole_word(self, token_id: int) -> str | None:
        piece = self.pieces[token_id]
        return piece if token_id not in self.special_ids and _is_word(piece) else None

    def _normalise_word(self, word: str) -> str:
        return self._backend.normalizer.normalize_str(word)

    def _reserved_ids(self) -> frozenset[int]:
        unused = re.compile(r"\[unused\d+\]")
        return frozenset(i for i, piece in enumerate(self.pieces) if unused.fullmatch(piece))


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model, kept as its serialised bytes; normalisation is the one stored in the model."""

    kind = "sentencepiece"

    def __init__(self, model: bytes, source: str = "model"):
        self._model = model
        try:
            if not model:
                raise RuntimeError("empty file")  # the library takes it for a model that is loaded later
            backend = self._backend
        except RuntimeError as error:
            raise UserError(f"{source}: this is not a SentencePiece model; train one with tools/train_tokenizer.py") from error
        super().__init__([backend.id_to_piece(i) for i in range(backend.get_piece_size())], source)

    @cached_property
    def _backend(self) -> sentencepiece.SentencePieceProcessor:
        return sentencepiece.SentencePieceProcessor(model_proto=self._model)

    def token_ids(self, text: str) -> list[int]:
        return self._backend.encode(text)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        silent = (self.pad_id, self.cls_id, self.sep_id)
        shown = {i: f"{_WORD_START}{self.pieces[i]}{_WORD_START}" for i in (self.unk_id, self.mask_id)}
        pieces = (shown.get(int(i), self.pieces[int(i)]) for i in ids if int(i) not in silent)
        return " ".join("".join(pieces).replace(_WORD_START, " ").split())

    def whole_word(self, token_id: int) -> str | None:
        piece = self.pieces[token_id]
        if token_id in self.special_ids or not piece.startswith(_WORD_START):
            return None
        word = piece.removeprefix(_WORD_START)
        return word.lower() if _is_word(word) else None

    def _normalise_word(self, word: str) -> str:
        return self._backend.normalize(word).removeprefix(_WORD_START)

    def _reserved_ids(self) -> frozenset[int]:
        backend = self._backend
        return frozenset(i for i in range(self.vocab_size) if backend.is_control(i) or backend.is_unused(i))


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Reads a tokeniser: `.txt` is a WordPiece vocabulary (one piece a line), `.model` a SentencePiece model.

    Raises:
      UserError: no such file, another suffix, a damaged file, or a vocabulary without the five special
      pieces.
    """
    path = Path(path)
    if path.suffix not in (".txt", ".model"):
        raise UserError(f"{path}: a tokeniser is a .txt (WordPiece) or .model (SentencePiece) file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot read the tokeniser ({error.strerror}); train one with tools/train_tokenizer.py"
        ) from error
    if path.suffix == ".model":
        return SentencePieceTokenizer(content, str(path))
    try:
        # Split at line feeds alone: vocabularies hold characters that str.splitlines takes for line ends.
        pieces = content.decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: a WordPiece vocabulary must be UTF-8 text, one piece a line") from error
    return WordPieceTokenizer([piece.removesuffix("\r") for piece in pieces], str(path))


def _is_word(piece: str) -> bool:
    # Marks (category M) belong to the letters before them in Indic and other scripts.
    return bool(piece) and all(c.isalnum() or unicodedata.category(c)[0] == "M" for c in piece)
