"""A front page worth looking at from the first migrate on. Delete the stories in the admin site."""

from datetime import timedelta

from django.db import migrations
from django.utils import timezone
from django.utils.text import slugify

LIVE, DRAFT = 1, 2

# Days from today, status, title, text; the first of a day is the first on its page.
STORIES = [
    (1, DRAFT, "Where to spend money", """\
Outline: first memory, then the database, then more web servers. Ask the treasurer for the figures, and \
for a quotation we may print."""),
    (0, LIVE, "Hungry cat is hungry", """\
The cat that lives behind the printing press has asked for breakfast four times since midnight, and was \
served each time by whoever happened to be on duty. None of the four knew of the other three.

“We keep no notes at the desk,” the night editor said. “Notes at the desk are how you get a cat that only \
one of us can feed. What matters is written on the board in the hall, where everybody can read it.”

The cat is expected to be hungry again tomorrow. The desk is ready."""),
    (0, LIVE, "Tests turn fear into boredom", """\
A newsroom that used to hold its breath at every release now yawns. The change came slowly: each time \
somebody did something stupid, somebody wrote a test against doing it again.

Unit tests, doctests, a client that asks for pages as a reader would: asked which kind they recommend, the \
staff answered that they need them all."""),
    (-1, LIVE, "Global variables are right out", """\
The balance sheet was right on one machine and wrong on the other, and both were very sure of themselves. \
Each had remembered the figure in a variable of its own.

It now lives in the cache, where all of them look. See it under “Balance sheet”: it says who added it up."""),
    (-1, LIVE, "Filesystem? What filesystem?", """\
A report written to /tmp by one server was asked for at another, which had never heard of it. Pictures \
therefore go to the media servers through a storage, and the page servers own nothing they could lose."""),
    (-2, LIVE, "Caching cures scurvy, study finds", """\
It turns less hardware into more, makes slow code fast and puts off the day you need a new server. The \
authors admit to trade-offs: how stale may a page be, and who says when it is?

Our answer is printed with every page. Ask for it twice, and the second answer is three digits long: 304."""),
    (-3, LIVE, "Small is good", """\
What does this application do? If the answer takes more than two short sentences, it wants to be two \
applications. This site is five, and the longest fits on a few pages of this newspaper."""),
    (-4, LIVE, "One database fell over; readers did not notice", """\
The pages speak to 127.0.0.1 and leave it to the proxy there to know which database is alive tonight. At \
a quarter past two it was a different one. The writer of these lines slept through it."""),
]


def add_stories(apps, schema_editor):
    story_model = apps.get_model("budget", "Story")
    today = timezone.localdate()
    for days, status, title, text in reversed(STORIES):  # the newest gets the highest key
        story_model.objects.using(schema_editor.connection.alias).create(
            date=today + timedelta(days=days), status=status, title=title, slug=slugify(title), text=text
        )


class Migration(migrations.Migration):
    dependencies = [("budget", "0001_initial")]
    operations = [migrations.RunPython(add_stories, migrations.RunPython.noop)]
