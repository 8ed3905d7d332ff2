#pragma once

/* The commit that the program was built from, or "unknown". */
const char *millrace_commit(void);
