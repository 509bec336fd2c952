#include "base/shell_word.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

static bool is_plain(const char *text)
{
	return *text && *text != '-' && !text[strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:+@%/")];
}

struct shell_word shell_word(const char *text)
{
	static const char quote[] = "'\\''"; /* ends the quotes, adds one, and begins new quotes */
	struct shell_word w = { "'" };
	size_t n = 1, len;

	if (is_plain(text) && strlen(text) < sizeof(w.s)) {
		strcpy(w.s, text);
		return w;
	}
	for (; *text; text++, n += len) {
		len = *text == '\'' ? sizeof(quote) - 1 : 1;
		if (n + len + sizeof("'") > sizeof(w.s))
			break;
		memcpy(w.s + n, *text == '\'' ? quote : text, len);
	}
	w.s[n] = '\'';
	return w;
}
