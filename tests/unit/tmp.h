/* tmp: where unit tests make temporary files. */
#ifndef CAIRN_TESTS_TMP_H
#define CAIRN_TESTS_TMP_H

#include <stdlib.h>

/* Return the folder for a test's temporary files: TMPDIR, or /tmp. */
static inline const char *tmp_folder(void)
{
	const char *folder = getenv("TMPDIR");

	return folder ? folder : "/tmp";
}

/* Return a folder on a tmpfs for a test's files: TEST_SHM, which tests/run.sh sets. When only
 * TMPDIR is set, return tmp_folder(), since the user has chosen where all files go. */
static inline const char *tmp_folder_in_memory(void)
{
	const char *folder = getenv("TEST_SHM");

	if (folder && *folder)
		return folder;
	return getenv("TMPDIR") ? tmp_folder() : "/dev/shm";
}

#endif
