#pragma once

#include <stddef.h>

extern const unsigned char millrace_dygraphs_js[], millrace_dygraphs_js_end[];
extern const unsigned char millrace_dygraphs_css[], millrace_dygraphs_css_end[];

typedef struct {
    const unsigned char *start;
    size_t size;
} millrace_asset;

/* Arrays of no stated size are not seen from Swift: these two say where the files lie. */
static inline millrace_asset millrace_dygraphs_script(void) {
    return (millrace_asset){millrace_dygraphs_js, (size_t)(millrace_dygraphs_js_end - millrace_dygraphs_js)};
}

static inline millrace_asset millrace_dygraphs_style(void) {
    return (millrace_asset){millrace_dygraphs_css, (size_t)(millrace_dygraphs_css_end - millrace_dygraphs_css)};
}
