#include "base/machine_version.h"

#define FIRMWARES 3

/* By firmware. A row ends with 0; the first one is the newest. */
static const unsigned versions[FIRMWARES][5] = { { 7, 6, 3, 1 }, { 8, 4 }, { 9, 5 } };

#define KEEPS_SLOTS_FROM 3
#define EJECTS_FROM 7

unsigned machine_version_newest(unsigned firmware)
{
	return versions[firmware % FIRMWARES][0];
}

unsigned machine_version_unnamed(unsigned firmware)
{
	static const unsigned unnamed[FIRMWARES] = { 1, 4, 5 };

	return unnamed[firmware % FIRMWARES];
}

bool machine_version_boots(unsigned firmware, unsigned version)
{
	for (const unsigned *v = versions[firmware % FIRMWARES]; *v; v++)
		if (*v == version)
			return true;
	return false;
}

bool machine_version_keeps_slots(unsigned version)
{
	return version >= KEEPS_SLOTS_FROM;
}

bool machine_version_ejects(unsigned version)
{
	return version >= EJECTS_FROM;
}
