#include "base/utf8.h"

#include <string.h>

uint32_t utf8_next(const unsigned char *s, size_t left, size_t *len)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
	uint32_t c = s[0] & (0x7fu >> n);

	*len = 1;
	if (s[0] < 0xc2 || s[0] > 0xf4 || left < n)
		return 0xfffd;
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0xfffd;
		c = c << 6 | (s[i] & 0x3fu);
	}
	if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
		return 0xfffd;
	*len = n;
	return c;
}

/* Whether the code point at s is valid and no control character. Sets *len to its bytes. */
static bool is_clean(const unsigned char *s, size_t left, size_t *len)
{
	*len = 1;
	if (*s < 0x80)
		return *s >= 0x20 && *s != 0x7f;
	return utf8_next(s, left, len) >= 0xa0 && *len > 1;
}

bool utf8_is_clean(const char *s)
{
	const unsigned char *p = (const unsigned char *)s;

	for (size_t left = strlen(s), n; left; p += n, left -= n)
		if (!is_clean(p, left, &n))
			return false;
	return true;
}

void utf8_clean(char *s)
{
	unsigned char *p = (unsigned char *)s;

	for (size_t left = strlen(s), n; left; p += n, left -= n)
		if (!is_clean(p, left, &n))
			memset(p, '?', n);
}
