#include "img.h"

#include "base/util.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char suffixes[] = "bkmgtpe";

static int bad_size(const char *s, struct err *e)
{
	return err_set(e, -EINVAL, ERR_INVALID,
		"'%s' is no size; a number of bytes, or one with a suffix k, M, G, T, P or E is", s);
}

int img_parse_size(const char *s, uint64_t *ret, struct err *e)
{
	const char *suffix;
	uint64_t whole, unit;
	double fraction = 0;
	char *end;

	if (!isdigit((unsigned char)*s))
		return bad_size(s, e);
	errno = 0;
	whole = strtoull(s, &end, 10);
	if (errno)
		return err_set(e, -EINVAL, ERR_INVALID, "the size '%s' is too large", s);
	if (*end == '.') {
		if (!isdigit((unsigned char)end[1]))
			return bad_size(s, e);
		fraction = strtod(end, &end);
	}
	suffix = *end ? strchr(suffixes, tolower((unsigned char)*end)) : suffixes;
	if (!suffix || (*end && end[1]))
		return bad_size(s, e);
	unit = 1ULL << (10 * (suffix - suffixes));
	if (whole > INT64_MAX / unit)
		return err_set(e, -EINVAL, ERR_INVALID, "the size '%s' is too large", s);
	*ret = whole * unit + (uint64_t)(fraction * (double)unit);
	return 0;
}

void img_format_size(uint64_t bytes, char *buf, size_t cap)
{
	static const char *const units[] = { "", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei" };
	double v = (double)bytes;
	unsigned i = 0;

	/* As qemu-img: below 1000 of a unit, three significant digits. */
	while (v >= 1000 && i + 1 < ARRAY_SIZE(units)) {
		v /= 1024;
		i++;
	}
	snprintf(buf, cap, "%0.3g %sB", v, units[i]);
}
