#include "devices/legacy/calendar.h"

#define DAY_S 86400
#define ERA_DAYS 146097 /* 400 years */
#define EPOCH_DAYS 719468 /* days from 0000-03-01 to 1970-01-01 */

static int64_t floor_div(int64_t a, int64_t b)
{
	return a / b - (a % b < 0);
}

void calendar_from_seconds(int64_t seconds, struct calendar_date *c)
{
	int64_t days = floor_div(seconds, DAY_S), z = days + EPOCH_DAYS;
	int64_t era = floor_div(z, ERA_DAYS);
	int rest = (int)(seconds - days * DAY_S);
	int doe = (int)(z - era * ERA_DAYS); /* day of era */
	int yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	int doy = doe - (365 * yoe + yoe / 4 - yoe / 100); /* day of year, from 1 March */
	int mp = (5 * doy + 2) / 153;

	c->day = doy - (153 * mp + 2) / 5 + 1;
	c->month = mp < 10 ? mp + 3 : mp - 9;
	c->year = yoe + era * 400 + (c->month <= 2);
	c->hour = rest / 3600;
	c->minute = rest / 60 % 60;
	c->second = rest % 60;
	c->weekday = (int)(days + 4 - 7 * floor_div(days + 4, 7)); /* 1970 began on a Thursday */
}

static int64_t calendar_days(int64_t year, int month)
{
	int64_t y = year - (month <= 2), era = floor_div(y, 400);
	int yoe = (int)(y - era * 400);
	int doy = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5;

	return era * ERA_DAYS + yoe * 365 + yoe / 4 - yoe / 100 + doy - EPOCH_DAYS;
}

int64_t calendar_seconds(const struct calendar_date *c)
{
	int64_t months = c->year * 12 + c->month - 1, year = floor_div(months, 12);
	int64_t days = calendar_days(year, (int)(months - year * 12) + 1) + c->day - 1;

	return days * DAY_S + c->hour * 3600LL + c->minute * 60LL + c->second;
}
