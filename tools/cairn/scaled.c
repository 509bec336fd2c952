#include "tools/cairn/scaled.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

static uint64_t times(uint64_t n, uint64_t by)
{
	return n > UINT64_MAX / by ? UINT64_MAX : n * by;
}

int scaled_parse(const char *s, uint64_t plain, uint64_t *ret_bytes)
{
	static const char units[] = "KMGT";
	uint64_t n = 0, base = 1024;
	const char *u;

	if (!isdigit((unsigned char)*s))
		return -EINVAL;
	for (; isdigit((unsigned char)*s); s++)
		n = n > UINT64_MAX / 100 ? n : n * 10 + (uint64_t)(*s - '0');
	if (!*s || !strcmp(s, "b") || !strcmp(s, "bytes")) {
		*ret_bytes = times(n, *s ? 1 : plain);
		return 0;
	}
	u = strchr(units, toupper((unsigned char)*s));
	if (!u || (s[1] && strcmp(s + 1, "iB") && strcmp(s + 1, "B")))
		return -EINVAL;
	if (!strcmp(s + 1, "B"))
		base = 1000;
	for (long i = 0; i <= u - units; i++)
		n = times(n, base);
	*ret_bytes = n;
	return 0;
}
