"""Sentences to verify, warm up and test any model with, whatever it has learnt."""

SHORT = (
    "The soup was cold, but the waiter was kind.",
    "Nobody told us that the shop closes at noon.",
    "What a splendid view!",
    "My parcel has been on its way for three weeks now.",
)
LONG = (
    "We took the night train because the flight had been cancelled, and to our surprise the beds "
    "were clean, the breakfast was warm, and the conductor knew a story about every town that we "
    "passed; by the time the sun came up over the lake, none of us wanted to get off any more.",
    "The manual says that the battery lasts for two days, which may be true if the thing lies in a "
    "drawer, but when you listen to music on the way to work and look at the map now and then, it "
    "is empty before the evening, and the charger gets so hot that I would not leave it alone.",
)
# Longer than any model takes.
ENDLESS = (
    "It rained for the whole week, and still the children asked when we would come back. " * 40
)
EMPTY = ("", " \t\n", "\u200b")
SCRIPTS = (
    "Señor Müller liked the crème brûlée; his naïve façade fell at once.",
    "best. birthday. ever 🎂🥳 thanks to all of you 👩‍👩‍👧",
    "[MASK] 東京の夜 ist schön, n'est-ce pas?\tYes -- 100% (well, [MASK].5%)!",
)

# All kinds, for a batch: a row's answer must not depend on its neighbours.
SENTENCES = (SHORT[0], *SCRIPTS[:2], EMPTY[0], ENDLESS, SCRIPTS[2], "ok")
