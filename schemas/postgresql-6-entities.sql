-- Rollups by entity are rows of rollups with the grains 5 (hours) and 6 (days), whose series have a metadata set of the
-- form ["key",value]. Of what was counted before this step there are none: they are whole from the day after it.
INSERT INTO retained (what, from_us)
SELECT grain, (max(max_time_us) / 86400000000 + 1) * 86400000000
FROM offsets, unnest(ARRAY[5, 6]) AS grain
WHERE max_time_us IS NOT NULL
GROUP BY grain;
