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

/* Return a folder on a tmpfs for a test that needs one: TEST_SHM, which tests/run.sh sets and checks, or /dev/shm.
 * On other file systems the block engine allocates ahead of the file's end, so images have other sizes. */
static inline const char *tmp_folder_in_memory(void)
{
	const char *folder = getenv("TEST_SHM");

	return folder && *folder ? folder : "/dev/shm";
}

#endif
