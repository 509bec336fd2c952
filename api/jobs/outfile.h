/* outfile: a file that a client opened and handed over to be written. */
#ifndef CAIRN_API_JOBS_OUTFILE_H
#define CAIRN_API_JOBS_OUTFILE_H

struct err;

/* Regular, empty, not for appending, and open as access says: O_WRONLY or O_RDWR (which will do for both). what: "a
 * dump", for the sentence. Returns 0; -EINVAL, -EEXIST. */
int outfile_check(int fd, int access, const char *what, struct err *e);

#endif
