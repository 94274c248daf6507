"""Captions as varied as a corpus of videos has them, from a seed: `words.py` mines them.

Sentences of templates and word lists, some with a made-up name. Names follow Zipf's law, so the vocabulary goes on growing with
the corpus: 200,000 captions have 10 words on average and 31,000 different ones, 20,000 captions 5,400.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator

_LISTS = {
    "noun": """actor airplane apple artist athlete baby ball band bear bike bird boat book boy bread bridge bus butterfly cake
        camera candle captain car carpet cat chef chicken child city cloud coach coffee computer couple cow cup dancer desert
        designer doctor dog dolphin door dress driver drone drum eagle elephant engineer face family farmer field fire fish
        flag flower forest fox friend frog game garden girl glass goat grandmother group guitar gymnast hand hat hill horse
        house island jacket judge kitchen kitten lake lamp laptop leaf lion machine man market mechanic microphone model
        monkey moon mother motorcycle mountain mouse musician narrator nurse ocean office onion orange owl pan panda pasta
        pepper person phone piano picture pilot pizza plant player pot potato presenter puppy rabbit rain recipe referee
        river road robot room runner salad sauce school sheep shoe singer skater sky smoke snow soldier soup spider stage
        star stadium street student sun surfer swimmer table teacher team tiger tomato toy tractor train tree truck turtle
        umbrella vegetable village violin wall waterfall wave whale wheel window woman worker zebra""",
    "verb": """adjusts answers arranges bakes balances blows bounces breaks builds carries catches chases chops cleans climbs
        closes colors combs connects cooks covers crosses cuts decorates demonstrates describes digs discusses draws dries
        drives drops eats enters examines explains feeds films finds fixes flips folds follows fries gathers gives grabs
        holds hugs inspects introduces kicks kisses leaves lifts likes makes measures mixes moves opens paints passes peels
        plays polishes pours presents prepares presses pulls pushes reads repairs reviews rides rinses rolls scores sees
        sells shakes shows slices smells spins sprays spreads stirs stretches studies teaches tests throws ties touches
        trains turns unfolds uses visits washes watches waters wears wraps writes""",
    "doing": """arguing bouncing camping clapping climbing cooking crying cycling dancing drifting driving falling fighting
        fishing floating flying gardening hiking jogging juggling jumping kneeling knitting laughing listening meditating
        painting performing playing posing racing reading relaxing resting riding rowing running sailing shopping shouting
        singing sitting skating skiing sleeping smiling speaking spinning standing surfing swimming swinging talking
        thinking traveling waiting walking waving working wrestling writing""",
    "adjective": """abstract ancient angry animated athletic bald beautiful big black blue blurry bright broken brown busy calm
        careful cheerful clean cloudy cold colorful crowded curious cute dark delicious dirty dry elderly empty famous fast
        fresh friendly frozen funny furry giant golden gray green happy heavy huge hungry little lonely long loud lovely
        messy modern muddy narrow nervous old orange pink plastic pregnant pretty purple quiet rainy red rusty sad scary
        serious shiny short shy silver sleepy slow small smiling snowy soft spicy striped strong stylish sunny tall thin tiny
        tired tropical ugly warm wet white wide wild wooden yellow young""",
    "place": """airport alley arena backyard balcony bar barn basement bathroom beach bedroom cafe church classroom cliff club
        concert court dock factory farm gallery garage gym harbor highway hospital hotel jungle kitchen laboratory library
        mall meadow museum park parking-lot playground pool restaurant roof salon sea shop sidewalk stadium stage station
        store studio subway supermarket swamp theater town tunnel valley warehouse workshop yard zoo""",
    "how": """again alone backwards barefoot carefully excitedly gracefully happily indoors loudly outdoors outside quickly
        quietly seriously slowly smoothly softly suddenly together""",
    "where": """above across against along around behind below beside beyond by in inside near next-to on over past through
        toward under""",
    "count": "two three four five six seven eight nine ten several many both some 2 3 5 12 20 100",
    "time": "autumn dawn daytime dusk evening morning night noon spring summer sunrise sunset twilight winter",
    "view": """aerial-view close-up cinematic-shot drone-footage macro-shot pan-shot point-of-view side-view time-lapse
        wide-shot""",
}  # fmt: skip
_WORDS = {kind: [word.replace("-", " ") for word in words.split()] for kind, words in _LISTS.items()}
_TEMPLATES = [
    "a {noun} {verb} a {noun} {where} the {place}",
    "a {adjective} {noun} {verb} the {adjective} {noun} while a {noun} is {doing} {how}",
    "{count} {noun}s are {doing} {where} a {adjective} {noun}",
    "{view} of a {adjective} {noun} {doing} {where} the {noun} at {time}",
    "{view} of {adjective} {place} in {name}, {time}, 4k",
    "the {noun} from {name} is {doing} with {count} {adjective} {noun}s",
    "a {noun} in a {adjective} {noun} talks about {name} and {verb} it {how}",
    "someone {verb} some {noun}s and {verb} them {where} a {noun}",
    "{adjective} {noun} and {noun} {doing} {how} {where} {name} {place}",
    "there is a {noun} who is {doing} {where} the {place} and {verb} a {noun}",
    "{name}, {name}: {count} {adjective} {noun}s {where} the {place} in {time}",
    "he was {doing} when the {noun} {verb} his {adjective} {noun}",
    "a cartoon {noun} {verb} {count} {noun}s {how}",
    "slow motion. {adjective} {noun} {doing} {where} the {place}. {view}",
    "people {doing} {where} the {adjective} {place} of {name}",
    "how to {doing} a {noun}: she {verb} the {adjective} {noun}s first",
]
_SLOT = re.compile(r"\{(\w+)\}")
_SYLLABLES = [first + second for first in "bdfgklmnprstvz" for second in ("a", "an", "e", "el", "i", "or", "u", "ys")]


def captions(count: int, seed: int = 0, names: int = 400_000) -> Iterator[str]:
    """The first `count` captions of a seed; those of a larger count begin with them. `names`: how many there are."""
    rng = random.Random(seed)
    for _ in range(count):
        yield _SLOT.sub(lambda slot: _word(rng, slot[1], names), rng.choice(_TEMPLATES))


def _word(rng: random.Random, kind: str, names: int) -> str:
    if kind == "name":
        return _name(int(math.exp(rng.random() * math.log(names))))
    words = _WORDS[kind]
    return words[int(len(words) * rng.random() ** 1.5)]  # the first ones more often


def _name(number: int) -> str:
    """A word of its own for each number."""
    syllables = []
    while number:
        number, part = divmod(number, len(_SYLLABLES))
        syllables.append(_SYLLABLES[part])
    return "".join(syllables).capitalize()
