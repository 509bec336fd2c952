#include "tools/xml/domain.h"
#include "tools/xml/reading.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <strings.h>

/* How many bytes, 0 for what is no unit. */
static uint64_t unit_bytes(const char *unit)
{
	static const char powers[] = "kmgtpe";
	const char *p = *unit ? strchr(powers, tolower((unsigned char)*unit)) : NULL;
	uint64_t base, bytes = 1;

	if (!strcasecmp(unit, "b") || !strcasecmp(unit, "byte") || !strcasecmp(unit, "bytes"))
		return 1;
	if (!p)
		return 0;
	if (!unit[1] || !strcasecmp(unit + 1, "ib"))
		base = 1024;
	else if (!strcasecmp(unit + 1, "b"))
		base = 1000;
	else
		return 0;
	for (; p >= powers; p--)
		bytes *= base;
	return bytes;
}

int size_parse(const char *number, const char *unit, uint64_t *ret_kib)
{
	uint64_t bytes = unit ? unit_bytes(unit) : 1024, n;

	if (!bytes)
		return -EINVAL;
	if (number_parse(number, UINT64_MAX / bytes, &n) < 0)
		return -ERANGE;
	n *= bytes;
	*ret_kib = n / 1024 + (n % 1024 != 0);
	return 0;
}
