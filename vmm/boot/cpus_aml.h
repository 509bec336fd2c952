/* cpus_aml: the content that the SSDT of a machine with the device "cpu-hotplug" (devices/cpu_hotplug.h) has for its
 * vCPUs: a device for each, and the method of the event. It follows the content of ssdt_cpus.asl. */
#ifndef CAIRN_VMM_BOOT_CPUS_AML_H
#define CAIRN_VMM_BOOT_CPUS_AML_H

#include <stddef.h>
#include <stdint.h>

#define CPUS_AML_MAX_BYTES 0x2000u /* 64 vCPUs take some 7,000 */

/* Write the AML of so many vCPUs. Returns its length. */
size_t cpus_aml_put(uint8_t to[CPUS_AML_MAX_BYTES], unsigned vcpus);

#endif
