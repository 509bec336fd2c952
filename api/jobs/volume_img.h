/* volume_img: runs cairn-img for a volume, with the volume's files open, so that a link in the place of one is not
 * followed.
 * Threading: runs in a process of fork_as.h, without malloc() and locks. */
#ifndef CAIRN_API_JOBS_VOLUME_IMG_H
#define CAIRN_API_JOBS_VOLUME_IMG_H

#include <limits.h>

struct err;

#define VOLUME_IMG_FILES 2
#define VOLUME_IMG_ARGS 24

struct volume_img {
	const char *program; /* cairn-img's path */
	int progress; /* its standard output; -1: none */
	/* Private: */
	const char *args[VOLUME_IMG_ARGS + 4]; /* with "--", the names and NULL */
	const char *names[2];
	unsigned nargs, nfiles;
	int files[VOLUME_IMG_FILES];
	char given[VOLUME_IMG_FILES][PATH_MAX + 8]; /* values of --fd */
};

/* Begin a command line. program: borrowed. */
void volume_img_begin(struct volume_img *v, const char *program, const char *verb, int progress);
/* Add an option or its value, borrowed. */
void volume_img_add(struct volume_img *v, const char *arg);
/* Set the arguments that follow the options, borrowed. */
void volume_img_names(struct volume_img *v, const char *first, const char *second);
/* Let cairn-img take the open file, borrowed, wherever the command line says `path`. */
void volume_img_add_file(struct volume_img *v, int fd, const char *path);
/* Run cairn-img, and wait for its end. SIGTERM for the process group ends it, also one that came before. Returns 0;
 * -EIO with the program's message; -errno. */
int volume_img_run(struct volume_img *v, struct err *e);

#endif
