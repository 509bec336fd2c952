#include "tests/fuzz/seed_file.h"

#include <stdio.h>
#include <stdlib.h>

int seed_file_write(const char *folder, const char *name, const void *seed, size_t len)
{
	char path[4096];
	FILE *f;

	snprintf(path, sizeof(path), "%s/seed-%s", folder, name);
	f = fopen(path, "w");
	if (!f || fwrite(seed, 1, len, f) != len || fclose(f)) {
		perror(path);
		return 1;
	}
	return 0;
}

int seed_files_write(const char *folder, size_t n, size_t size, size_t (*make)(size_t i, unsigned char *seed))
{
	unsigned char *seed = malloc(size);
	char name[24];
	int r = !seed;

	for (size_t i = 0; i < n && !r; i++) {
		snprintf(name, sizeof(name), "%zu", i);
		r = seed_file_write(folder, name, seed, make(i, seed));
	}
	free(seed);
	return r;
}
