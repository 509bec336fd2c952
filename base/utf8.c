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

void utf8_clean(char *s)
{
	unsigned char *p = (unsigned char *)s;
	size_t left = strlen(s);

	while (left) {
		size_t n = 1;

		/* U+0080 to U+009F are control characters too. */
		if (*p < 0x20 || *p == 0x7f)
			*p = '?';
		else if (*p >= 0x80 && (utf8_next(p, left, &n) < 0xa0 || n == 1))
			memset(p, '?', n);
		p += n;
		left -= n;
	}
}
