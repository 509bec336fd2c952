/* tmp: where unit tests make temporary files. */
#ifndef CAIRN_TESTS_TMP_H
#define CAIRN_TESTS_TMP_H

#include <stdlib.h>

/* Returns the folder below which a test makes its files: TMPDIR, or /tmp. */
static inline const char *tmp_folder(void)
{
	const char *folder = getenv("TMPDIR");

	return folder ? folder : "/tmp";
}

/* Returns a folder in memory for a test's files. tests/run.sh names one in TEST_SHM. With TMPDIR alone there is
 * none, so that the user says where all files go: then it is tmp_folder(). */
static inline const char *tmp_folder_in_memory(void)
{
	const char *folder = getenv("TEST_SHM");

	if (folder && *folder)
		return folder;
	return getenv("TMPDIR") ? tmp_folder() : "/dev/shm";
}

#endif
