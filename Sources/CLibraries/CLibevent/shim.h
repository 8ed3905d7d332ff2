#pragma once

// First, so that libevent's own feature macros do not change the C library's types from what Swift's Glibc has.
#include <sys/select.h>
#include <sys/time.h>

#include <event2/event.h>
#include <sys/eventfd.h>
