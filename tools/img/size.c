#include "img.h"

#include "base/size.h"
#include "base/util.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

int img_parse_size(const char *s, uint64_t *ret, struct err *e)
{
	char *end;
	int r;

	if (s[0] == '0' && (s[1] == 'x' || s[1] == 'X') && isxdigit((unsigned char)s[2])) {
		errno = 0;
		*ret = strtoull(s, &end, 16);
		r = *end ? -EINVAL : errno ? -ERANGE : 0;
	} else if (s[strspn(s, "0123456789.")] && s[strspn(s, "0123456789.") + 1]) {
		r = -EINVAL; /* as in qemu-img, a suffix is one letter: "1kb" could mean 1000 or 1024 bytes */
	} else {
		r = size_parse(s, 1, ret);
	}
	if (r == -EINVAL)
		return err_set(e, r, ERR_INVALID,
			"invalid size '%s'; give a number of bytes, or a number with a suffix k, M, G, T, P or E, or 0x and a hexadecimal number", s);
	if (r < 0 || *ret > INT64_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "the size '%s' is too large", s);
	return 0;
}

void img_format_size(uint64_t bytes, char *buf, size_t cap)
{
	static const char *const units[] = { "", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei" };
	double v = (double)bytes;
	unsigned i = 0;

	/* Like qemu-img, choose the unit so that the number is below 1000, and print three significant digits. */
	while (v >= 1000 && i + 1 < ARRAY_SIZE(units)) {
		v /= 1024;
		i++;
	}
	snprintf(buf, cap, "%0.3g %sB", v, units[i]);
}
