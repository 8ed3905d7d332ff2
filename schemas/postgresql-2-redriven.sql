-- When the bytes of a dead letter were last sent to the log again; minus the time at which it was discarded; NULL while
-- neither was done.
ALTER TABLE dead_letters ADD COLUMN redriven_us bigint;
