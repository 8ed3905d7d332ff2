-- A replay of one workspace: whose events are put under its rules and prices. NULL: those of all.
ALTER TABLE replays ADD COLUMN workspace TEXT;
