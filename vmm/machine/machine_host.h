/* machine_host: the services of the machine to its devices (devices/dev_host.h). */
#ifndef CAIRN_VMM_MACHINE_MACHINE_HOST_H
#define CAIRN_VMM_MACHINE_MACHINE_HOST_H

extern const struct dev_host_ops machine_host_ops;

#endif
