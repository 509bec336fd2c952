/* base64: data as text (RFC 4648, section 4). */
#ifndef CAIRN_BASE_BASE64_H
#define CAIRN_BASE_BASE64_H

#include <stddef.h>

/* Encode data. The caller frees the terminated text. */
char *base64_encode(const void *data, size_t len);
/* Decode a text. Returns the data, which the caller frees, followed by a NUL that *ret_len does not count; NULL: the
 * text is malformed. */
char *base64_decode(const char *text, size_t *ret_len);

#endif
