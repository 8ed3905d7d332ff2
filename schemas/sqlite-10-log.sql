-- A replay that reads the log: up to which instant (its first line), and by partition where the log began, how far it is
-- read and where it ends (topic, partition, begin, next, end). Empty: it reads stored events alone.
ALTER TABLE replays ADD COLUMN log_scan TEXT NOT NULL DEFAULT '';
