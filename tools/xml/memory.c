#include "base/size.h"
#include "tools/xml/domain.h"
#include "tools/xml/reading.h"

#include <errno.h>

int memory_parse(const char *number, const char *unit, uint64_t *ret_kib)
{
	uint64_t bytes = unit ? size_unit(unit) : 1024, n;

	if (!bytes)
		return -EINVAL;
	if (number_parse(number, UINT64_MAX / bytes, &n) < 0)
		return -ERANGE;
	n *= bytes;
	*ret_kib = n / 1024 + (n % 1024 != 0);
	return 0;
}
