from __future__ import annotations

import datetime
from typing import Any

import seeded_code
from django.db import migrations
from django.utils import timezone

DEFINITIONS = """
CREATE TYPE colour AS ENUM ('red', 'it''s; blue');
CREATE SEQUENCE numbers START 7;
CREATE TABLE extra (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, hue colour NOT NULL,
    double integer GENERATED ALWAYS AS (id * 2) STORED, number bigint DEFAULT nextval('numbers'));
INSERT INTO extra (hue) VALUES ('red'), ('it''s; blue');
CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO goods_change (name) VALUES (NEW.name); RETURN NEW; END $$;
CREATE TRIGGER changed AFTER INSERT ON goods_good FOR EACH ROW EXECUTE FUNCTION note_change();
CREATE VIEW notes AS SELECT note FROM goods_good;
COMMENT ON TABLE extra IS 'with "public".words; -- and ''more''';
"""


def write(apps: Any, schema_editor: Any) -> None:
    group, good = apps.get_model("goods", "Group"), apps.get_model("goods", "Good")
    top = group.objects.create(name="top")
    below = [group.objects.create(name=f"below {number}", parent=top) for number in range(3)]
    for number in range(20):
        good.objects.create(
            name=f"good {number} 100%",
            note=f"it's \\ {seeded_code.WORD}\n{{x}}",
            group=below[number % 3],
            day=timezone.now().date(),
            until=timezone.now() + datetime.timedelta(days=30),
            blob=b"\x00\xff",
            data={"a": ["b'\\", None]},
        )
    good.objects.filter(name__startswith="good 1").delete()


class Migration(migrations.Migration):
    dependencies = [("goods", "0001_initial")]
    operations = [migrations.RunSQL(DEFINITIONS, "SELECT 1"), migrations.RunPython(write)]
