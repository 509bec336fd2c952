/* A library for LD_PRELOAD: a file system without RENAME_NOREPLACE, such as NFS. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
	if (!flags)
		return renameat(from_dir, from, to_dir, to);
	errno = EINVAL;
	return -1;
}
