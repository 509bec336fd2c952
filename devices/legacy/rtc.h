/* rtc: MC146818 clock and CMOS memory at ports 0x70 and 0x71; UTC from CLOCK_REALTIME.
 *
 * A host timer runs only while the guest has an interrupt enabled. Source: Motorola MC146818A data
 * sheet; CMOS bytes for memory sizes as in the PC/AT's BIOS. */
#ifndef CAIRN_DEVICES_LEGACY_RTC_H
#define CAIRN_DEVICES_LEGACY_RTC_H

#include <stdint.h>

struct bus;
struct dev_host;
struct device;
struct err;

#include <stdint.h>

#define RTC_PORT 0x70
#define RTC_GSI 8
#define RTC_CENTURY_REGISTER 0x32 /* for the FADT */

/* Create the device "rtc". h->loop runs its timer; memory sizes come from h->ram. Free it through
 * its ops. Returns 0 or -errno. */
int rtc_new(struct dev_host *h, struct bus *pio, struct device **ret_dev, struct err *e);
/* Set the clock ahead of UTC by this many seconds, for guests that expect local time. Call before
 * the VM runs. */
void rtc_set_ahead(struct device *rtc, int32_t of_utc_s);

#endif
