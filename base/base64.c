#include "base/base64.h"
#include "base/util.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

char *base64_encode(const void *data, size_t len)
{
	const uint8_t *from = data;
	char *text = must_alloc(malloc((len + 2) / 3 * 4 + 1)), *to = text;

	for (size_t i = 0; i < len; i += 3) {
		size_t n = MIN(len - i, (size_t)3);
		uint32_t v = (uint32_t)from[i] << 16 | (n > 1 ? (uint32_t)from[i + 1] << 8 : 0) | (n > 2 ? from[i + 2] : 0);

		for (size_t k = 0; k < 4; k++)
			*to++ = k <= n ? letters[v >> (18 - 6 * k) & 63] : '=';
	}
	*to = 0;
	return text;
}

/* Decode four letters. Returns the number of bytes, 1 to 3; 0: malformed. */
static size_t group_decode(const char *text, uint8_t to[3])
{
	uint32_t v = 0;
	size_t n = 0;

	for (size_t k = 0; k < 4; k++) {
		const char *at = text[k] ? memchr(letters, text[k], 64) : NULL;

		if (!at && (text[k] != '=' || k < 2))
			return 0;
		if (at && n < k)
			return 0; /* a letter after '=' */
		n += at != NULL;
		v = v << 6 | (at ? (uint32_t)(at - letters) : 0);
	}
	for (size_t k = 0; k < 3; k++)
		to[k] = (uint8_t)(v >> (16 - 8 * k));
	return n - 1;
}

char *base64_decode(const char *text, size_t *ret_len)
{
	size_t len = strlen(text), n = 0;
	uint8_t *data = must_alloc(malloc(len / 4 * 3 + 1));

	for (size_t i = 0; i < len; i += 4) {
		uint8_t some[3];
		size_t got = len - i >= 4 ? group_decode(text + i, some) : 0;

		if (!got || (got < 3 && i + 4 < len)) {
			free(data);
			return NULL;
		}
		memcpy(data + n, some, got);
		n += got;
	}
	data[n] = 0;
	*ret_len = n;
	return (char *)data;
}
