/* end_file: the file in which a VM's process leaves the reason of its end for a daemon that does not run now. The
 * daemon has written its first page. The process maps this page, and closes the file before it reads anything from
 * outside: so a compromised process cannot make the file grow, as it could with an fd.
 *
 * Global, because a signal handler writes it. Threading: end_file_take() before there are threads; end_file_write()
 * anywhere. */
#ifndef CAIRN_VMM_KVM_END_FILE_H
#define CAIRN_VMM_KVM_END_FILE_H

struct vm_event;

/* Map the file. Without a map, which some file systems refuse, the reason is lost if no daemon runs; the log says so. A
 * further file is only closed.
 * fd: taken. */
void end_file_take(int fd);
/* Note in the file that the guest runs. */
void end_file_guest_runs(void);
/* Write the event to the file's offset 0, if there is one. Takes no lock. */
void end_file_write(const struct vm_event *ev);

#endif
