"""Do the pictures sent still look like those the detector was trained and calibrated on? Pure statistics, no I/O."""
