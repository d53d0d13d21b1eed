/* What fake_nvml.c needs of NVIDIA's nvml.h: the same names, layouts and numbers, as pynvml asks for them. */
typedef int nvmlReturn_t, nvmlClockType_t, nvmlPcieUtilCounter_t, nvmlTemperatureSensors_t, nvmlPstates_t;
typedef int nvmlMemoryErrorType_t, nvmlEccCounterType_t, nvmlValueType_t;
typedef struct nvmlDevice_st *nvmlDevice_t;
typedef struct nvmlEventSet_st *nvmlEventSet_t;
typedef struct nvmlGpmSample_st *nvmlGpmSample_t;
enum {
    NVML_SUCCESS = 0,
    NVML_ERROR_UNINITIALIZED = 1,
    NVML_ERROR_INVALID_ARGUMENT = 2,
    NVML_ERROR_NOT_SUPPORTED = 3,
    NVML_ERROR_NOT_FOUND = 6,
    NVML_ERROR_INSUFFICIENT_SIZE = 7,
    NVML_ERROR_TIMEOUT = 10,
    NVML_ERROR_GPU_IS_LOST = 15,
    NVML_ERROR_ARGUMENT_VERSION_MISMATCH = 25,
};
enum { NVML_VALUE_TYPE_UNSIGNED_INT = 1, NVML_VALUE_TYPE_UNSIGNED_LONG_LONG = 3 };
typedef struct { uint gpu, memory; } nvmlUtilization_t;
typedef struct { uint version; u64 total, reserved, free, used; } nvmlMemory_v2_t;
typedef struct { uint version; nvmlTemperatureSensors_t sensorType; int temperature; } nvmlTemperature_t;
typedef struct { uint pid; u64 usedGpuMemory; uint gpuInstanceId, computeInstanceId; } nvmlProcessInfo_t;
typedef union { double dVal; uint uiVal; u64 ullVal; } nvmlValue_t;
typedef struct {
    uint fieldId, scopeId;
    long long timestamp, latencyUsec;
    nvmlValueType_t valueType;
    nvmlReturn_t nvmlReturn;
    nvmlValue_t value;
} nvmlFieldValue_t;
typedef struct {
    nvmlDevice_t device;
    u64 eventType, eventData;
    uint gpuInstanceId, computeInstanceId;
} nvmlEventData_t;
typedef struct { uint version, isSupportedDevice; } nvmlGpmSupport_t;
typedef struct {
    uint metricId;
    nvmlReturn_t nvmlReturn;
    double value;
    struct { char *shortName, *longName, *unit; } metricInfo;
} nvmlGpmMetric_t;
typedef struct {
    uint version, numMetrics;
    nvmlGpmSample_t sample1, sample2;
    nvmlGpmMetric_t metrics[];
} nvmlGpmMetricsGet_t;
#define nvmlEventTypeXidCriticalError 8
#define NVML_FI_DEV_MEMORY_TEMP 82
#define NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX 138
#define NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX 139
