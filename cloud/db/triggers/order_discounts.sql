CREATE OR REPLACE TRIGGER order_discounts_use BEFORE INSERT ON order_discounts FOR EACH ROW EXECUTE FUNCTION use_discount();
