#pragma once

#include <curl/curl.h>
#include <stdlib.h>

// curl_easy_setopt and curl_easy_getinfo are variadic, which Swift cannot call: one function for each type of argument.
static inline CURLcode millrace_curl_set_long(CURL *handle, CURLoption option, long value) {
    return curl_easy_setopt(handle, option, value);
}

static inline CURLcode millrace_curl_set_size(CURL *handle, CURLoption option, curl_off_t value) {
    return curl_easy_setopt(handle, option, value);
}

static inline CURLcode millrace_curl_set_pointer(CURL *handle, CURLoption option, const void *value) {
    return curl_easy_setopt(handle, option, value);
}

typedef size_t (*millrace_curl_receive)(char *bytes, size_t size, size_t count, void *context);

static inline CURLcode millrace_curl_set_receive(CURL *handle, CURLoption option, millrace_curl_receive value) {
    return curl_easy_setopt(handle, option, value);
}

static inline CURLcode millrace_curl_status(CURL *handle, long *status) {
    return curl_easy_getinfo(handle, CURLINFO_RESPONSE_CODE, status);
}

static inline CURLcode millrace_curl_system_error(CURL *handle, long *number) {
    return curl_easy_getinfo(handle, CURLINFO_OS_ERRNO, number);
}

// To the named host alone, since that is who passwords and keys are for: no redirects, no proxy of the environment.
// Certificates are verified by the system's authorities, or by those that the environment names as for the proxy's
// upstreams: the library does not look by itself.
static inline void millrace_curl_go_straight(CURL *handle, int is_secure) {
    curl_easy_setopt(handle, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(handle, CURLOPT_PROXY, "");
    curl_easy_setopt(handle, CURLOPT_PROTOCOLS_STR, is_secure ? "https" : "http");
    const char *file = getenv("SSL_CERT_FILE"), *directory = getenv("SSL_CERT_DIR");
    if (file) curl_easy_setopt(handle, CURLOPT_CAINFO, file);
    if (directory) curl_easy_setopt(handle, CURLOPT_CAPATH, directory);
}
