#include "build.h"

/* Bare words, so that no quote has to pass through a build system. */
#define TEXT_OF(words) #words
#define TEXT(words) TEXT_OF(words)

const char *millrace_commit(void) { return TEXT(MILLRACE_COMMIT); }
