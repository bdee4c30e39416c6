-- The answers of rows that are in the manifest, above the table that `batchvision load` fills.
--   psql photos < postgres_view.sql
CREATE OR REPLACE VIEW current_answers AS
SELECT * FROM batchvision_results WHERE in_manifest;
