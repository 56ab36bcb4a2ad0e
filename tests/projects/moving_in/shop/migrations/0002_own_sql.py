from django.db import migrations

SQL = """
CREATE TYPE size AS ENUM ('small', 'large');
ALTER TABLE shop_product ADD size size NOT NULL DEFAULT 'small';
CREATE SEQUENCE receipts START 100;
ALTER TABLE shop_order ADD receipt bigint NOT NULL DEFAULT nextval('receipts');
CREATE FUNCTION note_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.note := NEW.note || ' of ' || (SELECT count(*) + 1 FROM shop_order);
    RETURN NEW;
END $$;
CREATE TRIGGER note_order BEFORE INSERT ON shop_order FOR EACH ROW EXECUTE FUNCTION note_order();
CREATE VIEW small_products AS SELECT id, name FROM shop_product WHERE size = 'small';
CREATE MATERIALIZED VIEW buyers AS SELECT buyer_id, count(*) AS orders FROM shop_order GROUP BY buyer_id;
"""


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [migrations.RunSQL(SQL)]
