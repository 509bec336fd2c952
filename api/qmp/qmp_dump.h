/* qmp_dump: the fds that clients stored with getfd on a VM's own socket. */
#ifndef CAIRN_API_QMP_QMP_DUMP_H
#define CAIRN_API_QMP_QMP_DUMP_H

struct client_file;

/* Maximum number of stored fds of one VM, from all its clients together. */
#define QMP_FDS_MAX 16

struct qmp_fds {
	struct {
		char name[64]; /* "": free */
		struct client_file *file;
	} list[QMP_FDS_MAX];
};

void qmp_fds_close(struct qmp_fds *f);

#endif
