/* A libnvidia-ml.so.1 without a GPU: every answer comes from the scenario file that FAKE_NVML_SCENARIO names.
 *
 * A line is "key value"; the file may change at any time and is read again when it does.
 *
 *   driver 9               every call fails with this nvmlReturn_t; 0 is a driver that works
 *   reset 1                a new number ends the session, as a reset of the driver does
 *   log PATH               each initialisation and shutdown appends a line there
 *   gpus 8
 *   gpu0.power 631950      what a call answers, in NVML's units; gpu*.power answers for every GPU without its own
 *   gpu0.power !3          the call fails with this nvmlReturn_t; a key that is not there is NOT_SUPPORTED
 *   gpu0.power.delay 500   the call takes so many milliseconds, or until this line is gone
 *   gpu0.lost 1            the GPU is lost to this session and, while the line is there, to each new one
 *   gpu0.mig_count 7       how many MIG devices there may be; gpu0.mig1.KEY answers for one that has a uuid
 *   gpu0.compute 12:1048576,13:-    processes: bytes by pid, - where the bytes are not available
 *   gpu0.xids 79,13        XID errors so far; a GPU without this line reports none
 *   gpu0.other_handle 1    its events come with another handle: that of its last MIG device, mig7
 *   gpu0.gpm 1             the GPU has GPM
 *   gpu0.gpm.2 57.5        what a GPM counter measures now; that of GPU instance 5 is gpu0.gi5.gpm.2
 *
 * Compiled with -DOLD_DRIVER it lacks what drivers before 2023 lack. To have a compiler compare the signatures and
 * structures with NVIDIA's header: cc -fsyntax-only -Wall -DNVML_HEADER='"/path/to/nvml.h"' fake_nvml.c
 */
typedef unsigned int uint;
typedef unsigned long long u64;

#ifdef NVML_HEADER
#define NVML_NO_UNVERSIONED_FUNC_DEFS
#include NVML_HEADER
#else
#include "fake_nvml.h"
#endif

#include "fake_scenario.h"

struct nvmlEventSet_st { int registered[MAX_GPUS], delivered[MAX_GPUS]; };

enum { MAX_INSTANCES = 16, WHOLE_GPU = MAX_INSTANCES - 1, GPM_COUNTERS = 9 };
static const uint gpm_counters[GPM_COUNTERS] = {1, 2, 3, 5, 10, 20, 21, 60, 61};
struct nvmlGpmSample_st { int gpu; uint instance; u64 looks; double sums[GPM_COUNTERS]; };
static struct nvmlGpmSample_st measured[MAX_GPUS][MAX_INSTANCES];

#define UINT_CALL(function, name) \
    nvmlReturn_t function(nvmlDevice_t device, uint *to) { return uint_of(device, name, to); }
#define LONG_CALL(function, name) \
    nvmlReturn_t function(nvmlDevice_t device, u64 *to) { return long_of(device, name, to); }
#define TEXT_CALL(function, name) \
    nvmlReturn_t function(nvmlDevice_t device, char *to, uint length) { return copy_of(device, name, to, length); }
#define PROCESSES_CALL(function, name) \
    nvmlReturn_t function(nvmlDevice_t device, uint *count, nvmlProcessInfo_t *infos) \
    { return processes_of(device, name, count, infos); }

nvmlReturn_t nvmlInitWithFlags(uint flags)
{
    (void)flags;
    read_scenario();
    log_call("init");
    if (setting("driver")) return setting("driver");
    for (int gpu = 0; gpu < MAX_GPUS; gpu++)
        for (int mig = 0; mig <= MAX_MIGS; mig++) devices[gpu][mig] = (struct nvmlDevice_st){gpu, mig};
    memset(lost, 0, sizeof lost);
    session_reset = setting("reset");
    initialised = 1;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlShutdown(void)
{
    nvmlReturn_t state = enter(NULL);
    log_call("shutdown");
    initialised = 0;
    return state;
}

const char *nvmlErrorString(nvmlReturn_t result)
{
    (void)result;
    return "an error of the fake library";
}

nvmlReturn_t nvmlDeviceGetCount_v2(uint *count)
{
    nvmlReturn_t state = enter(NULL);
    if (!state) *count = setting("gpus");
    return state;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(uint index, nvmlDevice_t *device)
{
    nvmlReturn_t state = enter(NULL);
    if (state) return state;
    if (index >= setting("gpus")) return NVML_ERROR_INVALID_ARGUMENT;
    *device = &devices[index][0];
    return enter(*device);
}

TEXT_CALL(nvmlDeviceGetUUID, "uuid")
TEXT_CALL(nvmlDeviceGetName, "name")
UINT_CALL(nvmlDeviceGetPowerUsage, "power")
UINT_CALL(nvmlDeviceGetEnforcedPowerLimit, "power_limit")
LONG_CALL(nvmlDeviceGetTotalEnergyConsumption, "energy")
UINT_CALL(nvmlDeviceGetFanSpeed, "fan")

nvmlReturn_t nvmlDeviceGetPerformanceState(nvmlDevice_t device, nvmlPstates_t *state)
{
    uint number;
    nvmlReturn_t result = uint_of(device, "pstate", &number);
    if (!result) *state = number;
    return result;
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, nvmlClockType_t type, uint *mhz)
{
    char name[32];
    return uint_of(device, numbered(name, "clock", type), mhz);
}

nvmlReturn_t nvmlDeviceGetPcieThroughput(nvmlDevice_t device, nvmlPcieUtilCounter_t counter, uint *kilobytes)
{
    char name[32];
    return uint_of(device, numbered(name, "pcie", counter), kilobytes);
}

nvmlReturn_t nvmlDeviceGetEncoderUtilization(nvmlDevice_t device, uint *percent, uint *microseconds)
{
    *microseconds = 167000;
    return uint_of(device, "encoder", percent);
}

nvmlReturn_t nvmlDeviceGetDecoderUtilization(nvmlDevice_t device, uint *percent, uint *microseconds)
{
    *microseconds = 167000;
    return uint_of(device, "decoder", percent);
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates)
{
    nvmlReturn_t state = uint_of(device, "utilization", &rates->gpu);
    return state ? state : uint_of(device, "utilization.memory", &rates->memory);
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, nvmlMemoryErrorType_t type, nvmlEccCounterType_t counter,
                                         u64 *count)
{
    char name[32];
    sprintf(name, "ecc.%d.%d", (int)type, (int)counter);
    return long_of(device, name, count);
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    if (memory->version != (sizeof *memory | 2u << 24)) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    u64 total, reserved, used;
    nvmlReturn_t state = long_of(device, "memory.total", &total);
    if (!state) state = long_of(device, "memory.reserved", &reserved);
    if (!state) state = long_of(device, "memory.used", &used);
    if (state) return state;
    memory->total = total;
    memory->reserved = reserved;
    memory->used = used;
    memory->free = total - reserved - used;
    return NVML_SUCCESS;
}

static int is_nvlink(uint field)
{
    return field == NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX || field == NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX;
}

nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *values)
{
    nvmlReturn_t state = enter(device), failure = NVML_ERROR_NOT_SUPPORTED;
    for (int i = 0; !state && i < count; i++) {
        char name[32];
        nvmlFieldValue_t *field = &values[i];
        u64 number = 0;
        field->nvmlReturn = long_of(device, numbered(name, "field", field->fieldId), &number);
        /* NVLink counts per link; only this scope is their sum. */
        if (is_nvlink(field->fieldId) && field->scopeId != ~0u) field->nvmlReturn = NVML_ERROR_INVALID_ARGUMENT;
        if (!field->nvmlReturn) failure = NVML_SUCCESS;
        field->valueType = NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
        field->value.ullVal = number; /* 0 where there is none, as drivers leave it */
        if (field->fieldId == NVML_FI_DEV_MEMORY_TEMP) {
            field->valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
            field->value.uiVal = (uint)number;
        }
    }
    return state ? state : failure;
}

/* -------------------------------------------------------------------- names that changed in 2023 and 2025 */

static nvmlReturn_t temperature_of(nvmlDevice_t device, int sensor, uint *celsius)
{
    char name[32];
    return uint_of(device, numbered(name, "temperature", sensor), celsius);
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t sensor, uint *celsius)
{
    return temperature_of(device, sensor, celsius);
}

LONG_CALL(nvmlDeviceGetCurrentClocksThrottleReasons, "reasons")
LONG_CALL(nvmlDeviceGetSupportedClocksThrottleReasons, "reasons_supported")

#ifndef OLD_DRIVER
nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *temperature)
{
    if (temperature->version != (sizeof *temperature | 1u << 24)) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    uint celsius;
    nvmlReturn_t state = temperature_of(device, temperature->sensorType, &celsius);
    if (!state) temperature->temperature = (int)celsius;
    return state;
}

LONG_CALL(nvmlDeviceGetCurrentClocksEventReasons, "reasons")
LONG_CALL(nvmlDeviceGetSupportedClocksEventReasons, "reasons_supported")
#endif

/* -------------------------------------------------------------------- MIG */

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, uint *count)
{
    *count = 0;
    nvmlReturn_t state = uint_of(device, "mig_count", count);
    return state == NVML_ERROR_NOT_SUPPORTED ? NVML_SUCCESS : state;
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, uint index, nvmlDevice_t *mig)
{
    nvmlReturn_t state = enter(device);
    if (state) return state;
    if (index >= MAX_MIGS) return NVML_ERROR_INVALID_ARGUMENT;
    *mig = &devices[device->gpu][1 + index];
    return find_for(*mig, "uuid") ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

UINT_CALL(nvmlDeviceGetGpuInstanceId, "gi")

/* -------------------------------------------------------------------- processes */

static nvmlReturn_t processes_of(nvmlDevice_t device, const char *name, uint *count, nvmlProcessInfo_t *infos)
{
    const char *text;
    nvmlReturn_t state = text_of(device, name, &text);
    if (state) return state;
    uint found = 0, room = *count;
    for (const char *at = text; at && *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL, found++) {
        if (found >= room) continue;
        const char *bytes = strchr(at, ':') + 1;
        infos[found] = (nvmlProcessInfo_t){.pid = (uint)atol(at), .gpuInstanceId = ~0u, .computeInstanceId = ~0u};
        infos[found].usedGpuMemory = *bytes == '-' ? ~0ull : strtoull(bytes, NULL, 10);
    }
    *count = found;
    return found > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

PROCESSES_CALL(nvmlDeviceGetComputeRunningProcesses_v3, "compute")
PROCESSES_CALL(nvmlDeviceGetGraphicsRunningProcesses_v3, "graphics")
PROCESSES_CALL(nvmlDeviceGetMPSComputeRunningProcesses_v3, "mps")

/* -------------------------------------------------------------------- events */

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set)
{
    nvmlReturn_t state = enter(NULL);
    if (!state) *set = calloc(1, sizeof **set);
    return state;
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set)
{
    free(set);
    return enter(NULL);
}

/* The how-manieth XID in a GPU's list, or NULL. */
static const char *xid_at(int gpu, int place)
{
    const char *text = find_for(&devices[gpu][0], "xids");
    if (text && *text == '-') return NULL;
    for (; text && place; place--) text = strchr(text, ',') ? strchr(text, ',') + 1 : NULL;
    return text;
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, u64 types, nvmlEventSet_t set)
{
    nvmlReturn_t state = enter(device);
    if (state) return state;
    if (types != nvmlEventTypeXidCriticalError || !find_for(device, "xids")) return NVML_ERROR_NOT_SUPPORTED;
    set->registered[device->gpu] = 1;
    /* Those before the registration are not told. */
    while (xid_at(device->gpu, set->delivered[device->gpu])) set->delivered[device->gpu]++;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, uint milliseconds)
{
    (void)milliseconds;
    nvmlReturn_t state = enter(NULL);
    for (int gpu = 0; !state && gpu < MAX_GPUS; gpu++) {
        const char *xid = set->registered[gpu] ? xid_at(gpu, set->delivered[gpu]) : NULL;
        if (!xid) continue;
        set->delivered[gpu]++;
        int handle = find_for(&devices[gpu][0], "other_handle") ? MAX_MIGS : 0;
        *data = (nvmlEventData_t){.device = &devices[gpu][handle], .eventType = nvmlEventTypeXidCriticalError};
        data->eventData = strtoull(xid, NULL, 10);
        return NVML_SUCCESS;
    }
    return state ? state : NVML_ERROR_TIMEOUT;
}

/* -------------------------------------------------------------------- GPM */

static const char *gpm_setting(nvmlGpmSample_t target, uint counter)
{
    char key[96];
    if (target->instance == WHOLE_GPU) snprintf(key, sizeof key, "gpu%d.gpm.%u", target->gpu, counter);
    else snprintf(key, sizeof key, "gpu%d.gi%u.gpm.%u", target->gpu, target->instance, counter);
    return find(key);
}

nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t device, nvmlGpmSupport_t *support)
{
    if (support->version != 1) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    nvmlReturn_t state = enter(device);
    if (!state) support->isSupportedDevice = find_for(device, "gpm") != NULL;
    return state;
}

nvmlReturn_t nvmlGpmSampleAlloc(nvmlGpmSample_t *sample)
{
    nvmlReturn_t state = enter(NULL);
    if (!state) *sample = calloc(1, sizeof **sample);
    return state;
}

nvmlReturn_t nvmlGpmSampleFree(nvmlGpmSample_t sample)
{
    free(sample);
    return enter(NULL);
}

static nvmlReturn_t look(nvmlDevice_t device, uint instance, nvmlGpmSample_t sample)
{
    const char *text;
    nvmlReturn_t state = text_of(device, "gpm", &text);
    if (state) return state;
    struct nvmlGpmSample_st *target = &measured[device->gpu][instance % MAX_INSTANCES];
    target->gpu = device->gpu;
    target->instance = instance;
    target->looks++;
    for (uint i = 0; i < GPM_COUNTERS; i++) {
        text = gpm_setting(target, gpm_counters[i]);
        target->sums[i] += text ? atof(text) : 0;
    }
    *sample = *target;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpmSampleGet(nvmlDevice_t device, nvmlGpmSample_t sample)
{
    return look(device, WHOLE_GPU, sample);
}

nvmlReturn_t nvmlGpmMigSampleGet(nvmlDevice_t device, uint instance, nvmlGpmSample_t sample)
{
    return look(device, instance, sample);
}

/* The mean of what the scenario said from the look after the older sample to the newer one. */
static void measure(nvmlGpmMetric_t *metric, nvmlGpmSample_t older, nvmlGpmSample_t newer)
{
    metric->nvmlReturn = gpm_setting(newer, metric->metricId) ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
    metric->value = 0;
    for (uint i = 0; i < GPM_COUNTERS; i++)
        if (gpm_counters[i] == metric->metricId)
            metric->value = (newer->sums[i] - older->sums[i]) / (double)(newer->looks - older->looks);
}

nvmlReturn_t nvmlGpmMetricsGet(nvmlGpmMetricsGet_t *request)
{
    nvmlReturn_t state = enter(NULL);
    if (state) return state;
    if (request->version != 1) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    nvmlGpmSample_t older = request->sample1, newer = request->sample2;
    if (!older || !newer || !older->looks || older->looks >= newer->looks || older->gpu != newer->gpu
        || older->instance != newer->instance) return NVML_ERROR_INVALID_ARGUMENT;
    for (uint i = 0; i < request->numMetrics; i++) measure(&request->metrics[i], older, newer);
    return NVML_SUCCESS;
}
