#pragma once

namespace yr_fastload::sim {

/// 0 if the calling thread may do now what waits for the device, such as a synchronous copy; else what CANN answers
/// while streams are captured into a graph.
int check_capture_mode();

}  // namespace yr_fastload::sim
