/* qmp_cpu: vCPUs in QEMU's words. A vCPU that comes while the VM runs has the id "vcpu" with its number, by which
 * events name it, too. */
#ifndef CAIRN_API_QMP_QMP_CPU_H
#define CAIRN_API_QMP_QMP_CPU_H

struct call;
struct definition;
struct err;
struct vm;

#define QMP_CPU_DRIVER 64 /* size of a driver's name, with the NUL */

/* Write the driver of the VM's vCPUs. */
void qmp_cpu_driver(const struct definition *d, char text[QMP_CPU_DRIVER]);
/* Whether device_add's driver is a processor. */
int qmp_cpu_is_driver(const char *driver);
/* Carry out device_add of a processor. Returns 0: the call is answered, or will be; -errno. */
int qmp_cpu_add(struct call *c, struct err *e);
/* Return the number of the vCPU with this id that the VM has; -1: none. */
int qmp_cpu_find(const struct vm *vm, const char *id);

#endif
