"""What is done to the data: values in, values out, no network, clock, file, thread or environment.

The steps, in the order in which `pipeline` alone calls them:

`decode`        DICOM datasets -> `values.Case`
`registration`  MR frame of reference -> planning CT, with a verdict
`refinement`    the drawn target -> a proposal, or an abstention
`contour_metrics`  volumes, overlap, surface distances
`dosimetry`     what each plan does to targets and organs, limits, all courses together
`encode`        `values.CaseResult` -> DICOM objects

Beneath them lie `sampling` (the only maker of voxels), `values`, `geometry` and `errors`.
"""
