-- When the bytes of a dead letter were last sent to the log again; NULL while they were not.
ALTER TABLE dead_letters ADD COLUMN redriven_us INTEGER;
