/* outfile: checks a file that a client opened and passed for writing (api/access/client_file.h). */
#ifndef CAIRN_API_JOBS_OUTFILE_H
#define CAIRN_API_JOBS_OUTFILE_H

struct client_file;
struct err;

/* Check that the file is regular, empty and not opened with O_APPEND.
 * access:  O_WRONLY or O_RDWR; a file opened O_RDWR satisfies both.
 * what:    names the content in errors: "a dump".
 * Returns 0; -EINVAL; -EEXIST: it is not empty. */
int outfile_check(const struct client_file *f, int access, const char *what, struct err *e);

#endif
