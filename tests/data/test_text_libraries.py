"""The same ids as the libraries that define the two tokenisers, on text that is not tidy."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
import tokenizers

from snp_jax.data.text import WordPieceTokenizer, load_tokenizer
from snp_jax.data.text_training import train_sentencepiece, train_wordpiece

WORDS = "a man in the red café is playing an un-seen guitar; don't stop! 3,000 people's naïve über-cats 東京 run-ning"
CORPUS = [WORDS, WORDS.upper(), *(f"{word} {WORDS}" for word in WORDS.split())] * 3
TEXTS = [
    WORDS, WORDS.upper(), "", "   ", "Tabs\tand\nnew lines", "unknownwordthatisverylong" * 8,
    "e\u0301clair vs \u00e9clair", "a\u200bb \ufffd c\x00d",
    "100% of $5.99 @home #tag", "東京タワー", "[MASK] in [SEP] text", "ﬁne ½ Ⅳ", "emoji 😀 here",
]  # fmt: skip
SHARED_VOCABULARY = Path(__file__).resolve().parents[3] / "shared" / "data" / "bert-base-uncased_30522_vocab.txt"


def vocabularies():
    """A small trained vocabulary, and BERT's own where it is there."""
    found = {"trained": train_wordpiece(CORPUS, 150).decode()}
    if SHARED_VOCABULARY.exists():
        found["bert"] = SHARED_VOCABULARY.read_text(encoding="utf-8")
    return found


@pytest.fixture(scope="module", params=["trained", "bert"])
def vocabulary(request, tmp_path_factory):
    found = vocabularies()
    if request.param not in found:
        pytest.skip(f"BERT's vocabulary is not at {SHARED_VOCABULARY}")
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text(found[request.param], encoding="utf-8")
    return path


def pieces(path):
    return path.read_text(encoding="utf-8").splitlines()


def test_wordpiece_ids_are_those_of_tokenizers(vocabulary):
    ours = WordPieceTokenizer(pieces(vocabulary))
    library = tokenizers.BertWordPieceTokenizer(str(vocabulary), lowercase=True)
    plain = [text for text in TEXTS if "[" not in text]  # the library takes [MASK] in text for the special token
    assert len(plain) > 10
    for text in plain:
        assert ours.token_ids(text) == library.encode(text, add_special_tokens=False).ids, text


def test_wordpiece_ids_are_those_of_transformers(vocabulary):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (pip install '.[parity]')")
    ours = WordPieceTokenizer(pieces(vocabulary))
    library = transformers.BertTokenizer(str(vocabulary), do_lower_case=True)
    for text in (text for text in TEXTS if "[" not in text):
        assert ours.token_ids(text) == library(text, add_special_tokens=False)["input_ids"], text


def test_sentencepiece_ids_are_those_of_sentencepiece(tmp_path):
    path = tmp_path / "spm.model"
    path.write_bytes(train_sentencepiece(CORPUS, 200))
    ours, library = load_tokenizer(path), sentencepiece.SentencePieceProcessor(model_file=str(path))
    for text in TEXTS:
        assert ours.token_ids(text) == library.encode(text), text
        assert ours.pieces[ours.cls_id] == library.id_to_piece(library.bos_id())
