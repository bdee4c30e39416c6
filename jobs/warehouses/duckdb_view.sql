-- The current answers of an output as a DuckDB view, read from output.snapshot = "current.parquet" without a load.
-- Set the path to your output, then: duckdb photos.db < duckdb_view.sql
CREATE OR REPLACE VIEW current_answers AS
SELECT * FROM read_parquet('out/caption/current.parquet');
