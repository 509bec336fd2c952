#include "base/utf8.h"
#include "base/util.h"

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

struct range {
	uint32_t first, last;
};

static bool is_in(uint32_t c, const struct range *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (c >= list[i].first && c <= list[i].last)
			return true;
	return false;
}

bool utf8_is_control(uint32_t c)
{
	/* UAX #9, table 4, and the separators of lines and paragraphs. */
	static const struct range controls[] = { { 0, 0x1f }, { 0x7f, 0x9f }, { 0x61c, 0x61c }, { 0x200e, 0x200f }, { 0x2028, 0x202e },
		{ 0x2066, 0x2069 } };

	return is_in(c, controls, ARRAY_SIZE(controls));
}

/* Return whether the code point at s is valid and no control character. Sets *len to its bytes. */
static bool is_clean(const unsigned char *s, size_t left, size_t *len)
{
	*len = 1;
	if (*s < 0x80)
		return *s >= 0x20 && *s != 0x7f;
	return !utf8_is_control(utf8_next(s, left, len)) && *len > 1;
}

bool utf8_is_plain_name(const char *s)
{
	/* Unicode's Default_Ignorable_Code_Point and White_Space, without U+0020 and control characters; also U+FFF9 to
	 * U+FFFB. */
	static const struct range invisible[] = { { 0xa0, 0xa0 }, { 0xad, 0xad }, { 0x34f, 0x34f }, { 0x115f, 0x1160 }, { 0x1680, 0x1680 },
		{ 0x17b4, 0x17b5 }, { 0x180b, 0x180f }, { 0x2000, 0x200d }, { 0x202f, 0x202f }, { 0x205f, 0x206f }, { 0x3000, 0x3000 },
		{ 0x3164, 0x3164 }, { 0xfe00, 0xfe0f }, { 0xfeff, 0xfeff }, { 0xffa0, 0xffa0 }, { 0xfff0, 0xfffb },
		{ 0x1bca0, 0x1bca3 }, { 0x1d173, 0x1d17a }, { 0xe0000, 0xe0fff } };
	size_t len = strlen(s);
	const unsigned char *p = (const unsigned char *)s;

	if (!utf8_is_clean(s) || s[0] == ' ' || (len && s[len - 1] == ' '))
		return false;
	for (size_t n; len; p += n, len -= n) {
		n = 1;
		if (*p >= 0x80 && is_in(utf8_next(p, len, &n), invisible, ARRAY_SIZE(invisible)))
			return false;
	}
	return true;
}

bool utf8_is_clean(const char *s)
{
	const unsigned char *p = (const unsigned char *)s;

	for (size_t left = strlen(s), n; left; p += n, left -= n)
		if (!is_clean(p, left, &n))
			return false;
	return true;
}

/* Begin a character of several bytes. Returns whether c is the first byte of one. */
static bool stream_begin(struct utf8_stream *s, unsigned char c)
{
	s->least = c == 0xc2 || c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80; /* C2: no control characters; else nothing overlong */
	s->most = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf; /* no surrogates, nothing above U+10FFFF */
	s->left = c < 0xc2 || c > 0xf4 ? 0 : c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;
	s->code = c & (0x3fu >> s->left);
	return s->left;
}

void utf8_stream_clean(struct utf8_stream *s, char *data, size_t n, const char *keep)
{
	size_t from = 0; /* where the present character begins */

	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)data[i];

		if (s->left && c >= s->least && c <= s->most) {
			*s = (struct utf8_stream){ (uint8_t)(s->left - 1), 0x80, 0xbf, s->code << 6 | (c & 0x3f) };
			if (!s->left && utf8_is_control(s->code))
				memset(data + from, '?', i + 1 - from);
			continue;
		}
		if (s->left)
			memset(data + from, '?', i - from);
		s->left = 0;
		from = i;
		if (c < 0x80 ? !is_clean(&c, 1, &(size_t){ 0 }) && !(c && strchr(keep, c)) : !stream_begin(s, c))
			data[i] = '?';
	}
}

void utf8_clean(char *s)
{
	unsigned char *p = (unsigned char *)s;

	for (size_t left = strlen(s), n; left; p += n, left -= n)
		if (!is_clean(p, left, &n))
			memset(p, '?', n);
}
