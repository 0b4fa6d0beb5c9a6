// The parallel-beam projector on CUDA: what _parallel_cpu.py does, for all views and all items of a batch at once.
//
// Lanes (slices, or slices times items) are contiguous and belong to neighbouring threads; a thread does a few of them,
// a block apart. REAL is float or double. Positions are worked out in double, since a float has no digits left for
// fractions of a voxel. Both kernels gather, with the same weights: there are no atomics, and results repeat bit for bit.

#define LANES_PER_THREAD 4

// One view: position = start + per_step * i + per_bin * b, and the tent around it; see LinePlan.
struct Line {
    double start, per_step, per_bin, per_voxel, reach, scale;
};

__device__ inline Line line_of(const double* lines, int v) {
    const double* p = lines + 6 * v;
    return {p[0], p[1], p[2], p[3], p[4], p[5]};
}

__device__ inline int floor_of(double x) {
    int i = int(x);
    return i > x ? i - 1 : i;
}

__device__ inline int ceil_of(double x) { return -floor_of(-x); }

__device__ inline double size_of(double x) { return x < 0 ? -x : x; }

__device__ inline REAL weight_of(const Line& line, double distance) {
    const REAL share = REAL(1) - REAL(size_of(distance)) / REAL(line.reach);
    return share > 0 ? REAL(line.scale) * share : REAL(0);
}

// sum[q] += weight * source[q-th lane of this thread]
__device__ inline void add_lanes(REAL* sum, REAL weight, const REAL* source, int lane, int lanes, int apart) {
    for (int q = 0; q < LANES_PER_THREAD; ++q)
        if (lane + q * apart < lanes) sum[q] += weight * source[lane + q * apart];
}

__device__ inline void store_lanes(const REAL* sum, REAL* target, int lane, int lanes, int apart) {
    for (int q = 0; q < LANES_PER_THREAD; ++q)
        if (lane + q * apart < lanes) target[lane + q * apart] = sum[q];
}

// One thread: one line of one item, a few lanes.
extern "C" __global__ void integrate(const REAL* images, const int* along_x, const double* lines, REAL* out, int nx,
                                     int ny, int lanes, int views, int bins) {
    const int vb = blockIdx.x * blockDim.y + threadIdx.y, item = blockIdx.z, apart = blockDim.x;
    const int lane = blockIdx.y * blockDim.x * LANES_PER_THREAD + threadIdx.x;
    if (vb >= views * bins || lane >= lanes) return;
    const int v = vb / bins, b = vb % bins;
    const Line line = line_of(lines, v);
    const REAL* image = images + size_t(item) * nx * ny * lanes;
    const bool x_steps = along_x[v];
    const int steps = x_steps ? nx : ny, across = x_steps ? ny : nx;
    REAL sum[LANES_PER_THREAD];
    for (int q = 0; q < LANES_PER_THREAD; ++q) sum[q] = 0;
    for (int i = 0; i < steps; ++i) {
        const double position = line.start + line.per_bin * b + line.per_step * i;
        if (!(position > -line.reach && position < across - 1 + line.reach)) continue;
        const int low = max(ceil_of(position - line.reach), 0);
        const int high = min(floor_of(position + line.reach), across - 1);
        for (int j = low; j <= high; ++j) {
            const size_t voxel = x_steps ? size_t(i) * ny + j : size_t(j) * ny + i;
            add_lanes(sum, weight_of(line, position - j), image + voxel * lanes, lane, lanes, apart);
        }
    }
    store_lanes(sum, out + (size_t(item) * views * bins + vb) * lanes, lane, lanes, apart);
}

// The transpose. One thread: one voxel of one item, a few lanes; it visits the bins whose lines cross the voxel.
extern "C" __global__ void backproject(const REAL* projections, const int* along_x, const double* lines, REAL* out,
                                       int nx, int ny, int lanes, int views, int bins) {
    const int voxel = blockIdx.x * blockDim.y + threadIdx.y, item = blockIdx.z, apart = blockDim.x;
    const int lane = blockIdx.y * blockDim.x * LANES_PER_THREAD + threadIdx.x;
    if (voxel >= nx * ny || lane >= lanes) return;
    const REAL* data = projections + size_t(item) * views * bins * lanes;
    REAL sum[LANES_PER_THREAD];
    for (int q = 0; q < LANES_PER_THREAD; ++q) sum[q] = 0;
    for (int v = 0; v < views; ++v) {
        const Line line = line_of(lines, v);
        const int i = along_x[v] ? voxel / ny : voxel % ny, j = along_x[v] ? voxel % ny : voxel / ny;
        const double centre = (j - line.start - line.per_step * i) * line.per_voxel;
        const double half = line.reach * size_of(line.per_voxel);
        if (!(centre > -half - 1 && centre < bins + half)) continue;
        const int low = max(ceil_of(centre - half), 0), high = min(floor_of(centre + half), bins - 1);
        for (int b = low; b <= high; ++b) {
            const double position = line.start + line.per_bin * b + line.per_step * i;
            add_lanes(sum, weight_of(line, position - j), data + (size_t(v) * bins + b) * lanes, lane, lanes, apart);
        }
    }
    store_lanes(sum, out + (size_t(item) * nx * ny + voxel) * lanes, lane, lanes, apart);
}
