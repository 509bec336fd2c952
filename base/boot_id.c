#include "base/boot_id.h"
#include "base/cleanup.h"
#include "base/file.h"

#include <stdio.h>
#include <string.h>

bool boot_id_read(char id[BOOT_ID_TEXT])
{
	CLEANUP_FREE char *text = NULL;
	size_t len;

	id[0] = 0;
	if (file_read("/proc/sys/kernel/random/boot_id", BOOT_ID_TEXT - 1, &text, &len, NULL) < 0)
		return false;
	snprintf(id, BOOT_ID_TEXT, "%.*s", (int)strcspn(text, "\n"), text);
	return id[0] != 0;
}
